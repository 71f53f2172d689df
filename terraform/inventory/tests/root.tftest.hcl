mock_provider "aws" {
  mock_data "aws_resourcegroupstaggingapi_resources" {
    defaults = {
      resource_tag_mapping_list = [{
        resource_arn       = "arn:aws:kms:eu-central-1:123456789012:key/1"
        tags               = { Name = "test-t-1" }
        compliance_details = []
      }]
    }
  }
  mock_data "aws_iam_roles" {
    defaults = { names = ["test-t-2", "test-t-1"] }
  }
}

variables {
  environment  = "test"
  role_pattern = "^test-"
}

run "what_is_there_is_listed" {
  command = apply
  assert {
    condition     = output.inventory.tagged["arn:aws:kms:eu-central-1:123456789012:key/1"].Name == "test-t-1"
    error_message = "tags by ARN"
  }
  assert {
    condition     = output.inventory.roles == tolist(["test-t-1", "test-t-2"])
    error_message = "roles by name"
  }
}
