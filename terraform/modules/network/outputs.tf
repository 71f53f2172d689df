output "network" {
  description = "Where the other modules put what they make."
  value = {
    vpc_id                = aws_vpc.this.id
    cidr                  = var.network.cidr
    public_subnet_ids     = [for subnet in aws_subnet.public : subnet.id]
    task_subnet_ids       = [for subnet in aws_subnet.tasks : subnet.id]
    app_security_group_id = aws_security_group.app.id
    data_subnet_ids       = [for subnet in aws_subnet.data : subnet.id]
  }
}
